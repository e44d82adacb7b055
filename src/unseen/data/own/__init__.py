"""A folder of your own images: its layout, a survey of its files, and what is wrong with them."""
