"""Folders that other systems load: each format is a file here, whose `write(source, folder)` fills one.

Such a file may say `WEIGHTS = True`: beside the bytes of a bundle it can use the weights of its student.
"""

FORMATS = ("triton", "kserve", "openvino", "optimum", "transformers-js", "huggingface")
