"""A small virtual machine with a real cgroup v2 hierarchy, and the tests that run inside it (`make vm`)."""
