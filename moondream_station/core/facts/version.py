"""The version of this package; hatch reads it here."""

VERSION = "0.2.0"
