"""The order system: order, customer, inventory and payment services and an orchestrator that share nothing but Kafka."""
