"""Blobs and journals in an object store that speaks S3. Loaded only where `store.blobs` names one."""
