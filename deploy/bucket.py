"""Makes a bucket where it is missing: python bucket.py NAME; credentials and address as AWS_*."""

import sys
import time

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError

PATIENCE_SECONDS = 60


def make(name: str) -> str:
    """Make a bucket, waiting for a store that is still starting."""
    store, deadline = boto3.client("s3"), time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if name in {each["Name"] for each in store.list_buckets()["Buckets"]}:
                return "is there"
            store.create_bucket(Bucket=name)
            return "made"
        except (EndpointConnectionError, ClientError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"bucket {name}: {error}")
            time.sleep(1)


if __name__ == "__main__":
    print(f"bucket {sys.argv[1]} {make(sys.argv[1])}")
