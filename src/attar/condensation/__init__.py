"""The method and nothing else: what happens to images and networks in each iteration."""
