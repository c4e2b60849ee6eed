"""The station over HTTP: routes, server-sent events, the status page, and a client of them."""
