"""The commands of ksyms: one module each, imported when it is chosen."""
