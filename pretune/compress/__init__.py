"""Makes a trained model smaller or faster: one file for each method, named in recipes and on the command line."""
