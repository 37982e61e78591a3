"""A smaller model of a user's own: fewer layers, taught on the user's texts what the large one makes of them."""
