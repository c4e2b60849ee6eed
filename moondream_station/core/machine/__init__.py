"""How the computer is asked: this one, or a recorded one."""
