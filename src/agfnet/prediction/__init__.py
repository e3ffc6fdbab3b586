"""The deployed path: bundle and predictor. NumPy, Pillow and ONNX Runtime; never torch."""
