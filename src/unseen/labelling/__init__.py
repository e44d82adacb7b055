"""Label maps of very many images: which they are, what is done already, what is written of them."""
