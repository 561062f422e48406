"""Tables as data: one module for each subject; `registry` says where each is shown."""
