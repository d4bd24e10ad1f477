"""BPF objects: what clang and a static linker leave for a loader to resolve."""
