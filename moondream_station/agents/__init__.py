"""What agents may ask the active model by the Model Context Protocol (MCP), and which files they may name."""
