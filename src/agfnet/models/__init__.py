"""The network: encoders, local and global fusion, their peers."""
