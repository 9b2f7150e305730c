"""The dashboard: a Streamlit app over a folder of runs. `main.py` is the frame, each page is a file in `views/`."""
