"""Version 1 of the gRPC contract: proto/wallet/v1/wallet.proto."""
