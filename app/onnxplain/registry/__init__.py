"""Which models exist: folders of models, and a store of what was uploaded."""
