"""Run folders: the only place that knows the paths inside them."""
