"""From rows of the store to what people read: values, tables, figures, a page."""
