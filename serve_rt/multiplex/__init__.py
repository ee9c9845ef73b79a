"""`serve.multiplexed`: several models in one replica, loaded when asked for."""
