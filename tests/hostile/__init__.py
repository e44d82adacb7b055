"""What nobody means to give the program, generated; every answer must be right or one sentence."""
