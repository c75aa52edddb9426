"""Opening pipelines: embedded systems, folders, single files and models of the Hub, with LoRAs."""
