"""The web page of `unseen serve`."""
