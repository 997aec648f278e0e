"""From rows of the store to what people read: values, tables, pictures, a page."""
