"""Packaging. The base install is what a device needs; everything of TensorFlow is an extra."""

from pathlib import Path

from setuptools import setup

TENSORFLOW = "tensorflow>=2.20,<2.22"
CONVERT = [
    "ai-edge-quantizer>=0.10,<0.11",
    "matplotlib>=3.8",
]
TRAIN = [
    TENSORFLOW,
    "tf-keras>=2.20,<2.22",
    "tensorflow-model-optimization>=0.8.1",
    "tensorflow-datasets>=4.9.8",
    "importlib-resources",  # which tensorflow-datasets needs to prepare a set, and does not ask for
    "tensorboard>=2.19",
    "safetensors>=0.5",
    "tqdm>=4.66",
    "opencv-python-headless>=4.10",  # augmentation at three times Pillow's speed, corruptions
    "scikit-learn>=1.5",
    "matplotlib>=3.8",
    "jinja2>=3.1",
]

setup(
    name="tfvit",
    version="0.1.0",
    description="From a folder of photos to a Vision Transformer that runs fast and right on a device",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10,<3.14",
    packages=[
        "tfvit",
        "tfvit.commands",
        "tfvit.data",
        "tfvit.evaluate",
        "tfvit.inspect",
        "tfvit.interop",
        "tfvit.objectives",
        "convert",
        "edge_demo",
        "edge_demo.commands",
        "edge_demo.measure",
        "edge_demo.outputs",
        "edge_demo.server",
        "edge_demo.sources",
        "edge_demo.tflite",
    ],
    package_data={
        "convert": ["report.html.jinja"],
        "edge_demo": ["web/dist/**"],
        "edge_demo.server": ["page.html"],
        "tfvit": ["page.css"],
        "tfvit.inspect": ["report.html.jinja"],
    },
    install_requires=[
        "numpy>=1.26",
        "pillow>=10.1",
        "click>=8.1",
        "ai-edge-litert>=2.1",
        "flatbuffers>=25.9",  # which ai-edge-litert brings anyway
    ],
    extras_require={
        "train": TRAIN,
        "convert": TRAIN + CONVERT,
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "tpu": ["tensorflow-tpu>=2.20,<2.22"],
        "camera": ["av>=14"],
        "web": ["cryptography>=43", "segno>=1.6"],
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "scipy>=1.13",
            "scikit-learn>=1.5",
            "playwright>=1.50",  # drives the Chromium of the system
        ],
    },
    entry_points={
        "console_scripts": ["tfvit = tfvit.cli:main", "edge-demo = edge_demo.cli:main"],
    },
)
