"""What the doctor reports: its findings, as data and as text, without anything private."""
