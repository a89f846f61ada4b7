"""The streaming application: records in from Kafka, alerts out."""
