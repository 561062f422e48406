"""Tables as data, one module per subject; `registry` says where each is shown."""
