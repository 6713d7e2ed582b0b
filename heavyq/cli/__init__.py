"""The command line: people's words in, calls of the layers below, people's words or one JSON document out."""
