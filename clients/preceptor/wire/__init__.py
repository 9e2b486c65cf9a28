"""The only definition of what travels between Preceptor's processes."""
