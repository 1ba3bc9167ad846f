"""Fast paths, each beside a plain-torch reference that it selects exactly like."""
