"""The one way out to the network. Adapters, retries and the reading of event streams; no word of any provider."""
