"""What the adapters of AWS share: who we are, signatures, one JSON call with its retries. No boto3."""
