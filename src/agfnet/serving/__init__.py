"""The service: an exported bundle behind HTTP, with a page, an audit log and metrics. Never imports torch."""
