"""Loading and saving models from folders of several layouts."""
