"""What runs beside user code: the zygote that imports it, and the children that run it."""
