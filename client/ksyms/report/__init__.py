"""What `ksyms bpf` prints and writes: text, JSON, JUnit, HTML."""
