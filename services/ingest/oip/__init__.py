"""The Open Inference Protocol (KServe V2), by REST and gRPC."""
