"""Autoencoders and what turns their errors into scores. Knows nothing of Kafka or of files of records."""
