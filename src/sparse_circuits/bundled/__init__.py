"""The models in the box, as data; folders.py says where they lie."""
