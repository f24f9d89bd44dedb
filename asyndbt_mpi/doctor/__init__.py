"""What may be wrong with how a run is about to be started, found before it costs anything."""
