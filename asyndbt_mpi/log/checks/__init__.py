"""What must hold in a log: for files of strangers before they are read, for `verify`, after."""
