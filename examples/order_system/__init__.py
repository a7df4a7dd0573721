"""The order system: order, customer, inventory and payment services and an orchestrator, joined by Kafka alone."""
