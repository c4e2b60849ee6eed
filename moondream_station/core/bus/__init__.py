"""How facts reach their subscribers and the disk."""
