"""How a machine is asked: this computer, or a recorded one."""
