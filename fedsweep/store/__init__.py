"""The database: its tables and views, how it is opened, what is read from it and added to it."""
