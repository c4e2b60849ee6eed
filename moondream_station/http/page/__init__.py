"""The status page: what a person sees of the station in a browser."""
