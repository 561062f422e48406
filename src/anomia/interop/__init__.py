"""Other tools' evaluations: their sample logs become runs of Anomia, and its questions become their tasks."""
