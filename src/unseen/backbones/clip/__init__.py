"""CLIP (Radford et al. 2021, arXiv 2103.00020) by way of open_clip.

tower.py: the image tower, walked block by block; text.py: the text tower and stored text features;
loading.py: names and files to towers; templates.py: prompt templates; blocks.py: residual blocks.
"""
