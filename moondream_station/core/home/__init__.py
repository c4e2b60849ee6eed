"""Where everything lives on disk, who may change it, and how it is written to survive."""
