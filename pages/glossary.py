"""Glossary: every term of the pages in plain words."""

import streamlit as st

from ui import words

st.title("Glossary")
st.markdown("The words these pages use, and what they mean here.")
for term, meaning in words.GLOSSARY.items():
    st.markdown(f"#### {term}")
    st.markdown(meaning)
